"""Recipes: what a YAML file may say (`schema`), and reading one with helpful errors (`reading`)."""
