"""What is in a volume: a folder, and operations on it that leave no half of anything."""
