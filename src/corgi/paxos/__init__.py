"""One Paxos group's consensus, without I/O: acceptor, leader, learner and the replica that joins them."""
