"""Files of other people: what they may ask for, looked at before they are read."""
