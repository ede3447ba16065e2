"""The site's knowledge: from profile, job and plan to directives, binding, launcher and environment. Pure functions."""
