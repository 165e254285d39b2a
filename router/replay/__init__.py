"""What was decided, again: traces of decisions in the books, replays under another configuration, drills."""
