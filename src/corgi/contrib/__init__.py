"""What Corgi does together with other packages, each of which is an extra: ``pip install corgi-mq[sqlalchemy]``."""
