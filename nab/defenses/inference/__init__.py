"""Defenses that judge images when they are answered."""
