"""How jobs and lists are shown to a person: sentences, lines, the live view, and tables that fit the screen."""
