"""Explanations of predictions: class activation maps, their faithfulness, learned features, receptive fields.

Stands on evaluation. From outside: `maps.explain`, `cam.class_maps`, `gallery`, `inspection.inspect_net`.
"""
