"""Specs: std and the shipped models."""
