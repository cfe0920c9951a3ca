"""Label-free pre-training by denoising: noise schedules and the noise-prediction loss."""
