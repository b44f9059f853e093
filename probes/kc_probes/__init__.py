"""The probing layer: one probe a file, found through the entry points that any other package can use too."""
