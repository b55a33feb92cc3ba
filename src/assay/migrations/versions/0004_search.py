"""The index that papers are searched by, and the marks that say which papers it has yet to take in."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_READ = ("title", "abstract", "sentence", "author_names", "keywords", "organisation")
"""The columns that the index is made from."""


def upgrade() -> None:
    op.create_table(
        "search_marks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("paper_id", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "search_vectors",
        sa.Column("paper_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    op.create_index("vectors_by_version", "search_vectors", ["model", "version"])
    old, new = (", ".join(f"{row}.{name}" for name in _READ) for row in ("OLD", "NEW"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE TABLE search_words (paper_id integer PRIMARY KEY, words tsvector NOT NULL)")
        op.execute("CREATE INDEX search_by_words ON search_words USING gin (words)")
        op.execute(
            "CREATE FUNCTION mark_for_search() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO search_marks (paper_id) "
            "VALUES (CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END); RETURN NULL; END $$"
        )
        call = "FOR EACH ROW {} EXECUTE FUNCTION mark_for_search()"
        changed = f"WHEN (ROW({old}) IS DISTINCT FROM ROW({new}))"
        op.execute(f"CREATE TRIGGER search_insert AFTER INSERT ON papers {call.format('')}")
        op.execute(f"CREATE TRIGGER search_update AFTER UPDATE ON papers {call.format(changed)}")
        op.execute(f"CREATE TRIGGER search_delete AFTER DELETE ON papers {call.format('')}")
    else:
        op.execute(
            "CREATE VIRTUAL TABLE search_words USING fts5(title, names, text, tokenize='porter unicode61')"
        )
        mark = "BEGIN INSERT INTO search_marks (paper_id) VALUES ({}.id); END"
        op.execute(f"CREATE TRIGGER search_insert AFTER INSERT ON papers {mark.format('NEW')}")
        op.execute(
            f"CREATE TRIGGER search_update AFTER UPDATE ON papers WHEN ({old}) IS NOT ({new}) "
            + mark.format("NEW")
        )
        op.execute(f"CREATE TRIGGER search_delete AFTER DELETE ON papers {mark.format('OLD')}")
    op.execute("INSERT INTO search_marks (paper_id) SELECT id FROM papers")


def downgrade() -> None:
    for event in ("insert", "update", "delete"):
        on = " ON papers" if op.get_bind().dialect.name == "postgresql" else ""
        op.execute(f"DROP TRIGGER search_{event}{on}")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION mark_for_search()")
    for table in ("search_words", "search_vectors", "search_marks"):
        op.execute(f"DROP TABLE {table}")
