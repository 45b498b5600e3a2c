"""Ready-to-download URLs for every video on Cloudflare Stream."""
