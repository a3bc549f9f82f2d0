"""Named tuples on hot paths."""

new = tuple.__new__  # a named tuple's own constructor takes twice as long
