"""A live page over run directories: it reads what runs write, and changes nothing."""
