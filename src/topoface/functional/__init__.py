"""topoface.functional"""
