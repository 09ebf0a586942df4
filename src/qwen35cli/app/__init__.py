"""What each command means, without a terminal."""
