"""What a transform is, what a rule is, and how rules meet trees."""
