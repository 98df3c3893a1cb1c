"""The losses, controllers and measurements inside the trainers that people use."""
