"""Why a net answers as it does: class activation maps, whether they are true, what its layers see.

Stands on evaluation. From outside: `maps.explain`, `cam.class_maps`, `gallery`, `inspection.inspect_net`.
"""
