"""What each stage of the chain trains: one file a stage, and the terms of the end-to-end loss."""
