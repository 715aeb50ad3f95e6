"""What a training takes of memory, counted; and ways to take less."""
