"""From a picture file to the patches the vision tower reads."""
