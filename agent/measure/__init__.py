"""Second stage: events become additive panes, labels meet their predictions, panes become metrics."""
