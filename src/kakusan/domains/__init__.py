"""Thin adapters around the core, one a modality: the only place that knows files and units."""
