"""What both backends share: naming, statement order, layout, artifacts."""
