"""What a run tells of itself while it lasts: its state, its rows and pictures, and trackers that get them too."""
