"""What a decision costs: rules of several kinds, candidates, filters and order, without sockets and without signals."""
