"""Who gets which digest, and which issues went out."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("pace", sa.Text, nullable=False),
        sa.Column("site", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("made_at", sa.Text, nullable=False),
        sa.Column("asked_at", sa.Text),
        sa.Column("confirmed_at", sa.Text),
        sa.UniqueConstraint("email", "query", "pace", name="one_subscription_a_query"),
        sa.UniqueConstraint("token", name="one_subscription_a_token"),
    )
    op.create_table(
        "mailings",
        sa.Column("subscription_id", sa.Integer, sa.ForeignKey("subscriptions.id"), primary_key=True),
        sa.Column("issue", sa.Date, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("at", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("mailings", "subscriptions"):
        op.drop_table(table)
