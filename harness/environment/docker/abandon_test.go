package docker

func abandonedRun() {}
