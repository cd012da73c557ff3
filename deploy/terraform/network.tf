# A network of its own, and what is open in it.

locals {
  groups = { peer = aws_security_group.peer.id, locator = aws_security_group.locator.id }
}

resource "aws_vpc" "this" {
  cidr_block           = var.vpc_cidr
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = var.name }
}

resource "aws_subnet" "this" {
  vpc_id     = aws_vpc.this.id
  cidr_block = local.subnet
  tags       = { Name = var.name }
}

resource "aws_route_table" "this" {
  vpc_id = aws_vpc.this.id
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this.id
  }
  tags = { Name = var.name }
}

resource "aws_route_table_association" "this" {
  subnet_id      = aws_subnet.this.id
  route_table_id = aws_route_table.this.id
}

# Nothing is open in the group that comes with the network.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-unused" }
}

resource "aws_security_group" "peer" {
  name        = "${var.name}-peer"
  description = "Vecino peers"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-peer" }
}

resource "aws_security_group" "locator" {
  name        = "${var.name}-locator"
  description = "Vecino locator"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-locator" }
}

resource "aws_vpc_security_group_ingress_rule" "rest_from_peers" {
  security_group_id            = aws_security_group.peer.id
  description                  = "REST between peers"
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
  referenced_security_group_id = aws_security_group.peer.id
}

resource "aws_vpc_security_group_ingress_rule" "rest_from_clients" {
  for_each          = toset(var.client_cidrs)
  security_group_id = aws_security_group.peer.id
  description       = "REST from clients"
  ip_protocol       = "tcp"
  from_port         = var.port
  to_port           = var.port
  cidr_ipv4         = each.value
}

resource "aws_vpc_security_group_ingress_rule" "locator_from_peers" {
  security_group_id            = aws_security_group.locator.id
  description                  = "lookups and announcements of peers"
  ip_protocol                  = "tcp"
  from_port                    = local.locator_port
  to_port                      = local.locator_port
  referenced_security_group_id = aws_security_group.peer.id
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  for_each          = { for pair in setproduct(keys(local.groups), var.admin_cidrs) : join(" ", pair) => pair }
  security_group_id = local.groups[each.value[0]]
  description       = "ssh of the operators"
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
  cidr_ipv4         = each.value[1]
}

# To each other, and to where the release and the system's updates are.
resource "aws_vpc_security_group_egress_rule" "inside" {
  for_each          = local.groups
  security_group_id = each.value
  description       = "the other machines"
  ip_protocol       = "tcp"
  from_port         = 1
  to_port           = 65535
  cidr_ipv4         = local.subnet
}

resource "aws_vpc_security_group_egress_rule" "web" {
  for_each          = { for pair in setproduct(keys(local.groups), ["80", "443"]) : join(" ", pair) => pair }
  security_group_id = local.groups[each.value[0]]
  description       = each.value[1] == "443" ? "the release" : "updates of the system"
  ip_protocol       = "tcp"
  from_port         = tonumber(each.value[1])
  to_port           = tonumber(each.value[1])
  cidr_ipv4         = "0.0.0.0/0"
}
