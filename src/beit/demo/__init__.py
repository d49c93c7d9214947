"""The main job on real pictures: satellite tiles and their climate zones."""
