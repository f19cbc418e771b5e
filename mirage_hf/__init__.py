"""MiraGe for Hugging Face."""
