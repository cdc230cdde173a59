"""The paper's Figures 3, 4 and 5, run again: `python -m benchmarks.paper run|status|draw`. See docs/paper.md."""
