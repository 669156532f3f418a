"""Small e-commerce pictures, clips and questions about them: what valley2-nano learns from and is measured with."""
