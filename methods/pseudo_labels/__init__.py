"""From what a classifier looks at to masks: activation maps, attention, pseudo-masks, the gate."""
