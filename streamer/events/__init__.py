"""From a record's bytes to one interaction, or to the one reason why it is none; pure."""
