"""What the measures compute with."""
