"""Several runs beside each other: plans compared, a setting swept, a learning curve, what each site contributes."""
