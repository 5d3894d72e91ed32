"""Pictures changed by a model: filled, extended, drawn again, told, blended."""
