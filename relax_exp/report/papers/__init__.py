"""Pages that compare with what the papers print."""
