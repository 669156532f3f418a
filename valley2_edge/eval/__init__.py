"""How good a bundle's answers are: multiple choice in four orders, and two bundles side by side."""
