"""What a run will need before any GPU is booked: memory, time, cost, and the setting that fits."""
