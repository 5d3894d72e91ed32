"""kakusan"""
