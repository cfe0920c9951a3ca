"""What a method author imports."""
