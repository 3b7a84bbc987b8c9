"""Methods one after the other, as one method."""
