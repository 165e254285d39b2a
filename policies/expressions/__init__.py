"""Conditions as expressions in CEL, the Common Expression Language: read, checked against what is known of a request, compiled."""
