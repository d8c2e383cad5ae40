"""Column types as the migrations mean them; they stay as they are, whatever the models do later."""

from __future__ import annotations

import sqlalchemy as sa

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.DateTime(timezone=True)
Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
