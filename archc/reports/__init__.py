"""What users ask for: tables, JSON and pictures."""
