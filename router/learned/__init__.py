"""The learned router's files, and how they are made: loading, training, calibration, evaluation."""
