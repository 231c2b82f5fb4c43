package gateway

func beClients(args []string) int { return 0 }
