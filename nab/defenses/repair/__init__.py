"""Defenses that repair a network which was trained on poison."""
