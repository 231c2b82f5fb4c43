package gateway

// lane is what the gateway holds for one function.
type lane struct{}
