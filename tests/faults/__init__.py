"""What must not hurt: the service is killed, deceived and held up; its invariants still hold."""
